"""What an architecture costs, in closed form: parameters, multiply-accumulates, activation memory."""
