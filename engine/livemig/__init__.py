"""The engine: moves processes between two machines, and knows nothing of Docker."""
