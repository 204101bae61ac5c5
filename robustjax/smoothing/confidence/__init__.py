"""What counts and sums say with confidence: probabilities, gradients, their budget."""
