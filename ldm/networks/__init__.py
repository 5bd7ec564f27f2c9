"""The networks: autoencoder, U-Net, Summarizer, DiT, ControlNet."""
