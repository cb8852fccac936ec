"""What an architecture costs in closed form: parameters, multiply-accumulates, memory."""
