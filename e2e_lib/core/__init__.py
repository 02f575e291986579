"""The method: the SAE, the splice, the loss, the loop and every metric."""
