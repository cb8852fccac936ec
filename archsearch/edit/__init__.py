"""From one architecture to another, step by step."""
