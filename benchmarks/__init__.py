"""What pegaref costs, as a ratio to a floor measured in the same run, since machines are shared and noisy."""
