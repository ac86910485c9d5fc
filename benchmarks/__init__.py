"""What pegaref costs, always as a ratio to a floor taken in the same run: machines are shared and noisy."""
