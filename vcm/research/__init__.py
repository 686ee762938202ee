"""What measures the models; nothing of it runs in the app."""
