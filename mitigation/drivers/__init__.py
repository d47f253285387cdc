"""Put rules on equipment; a driver gets rules as values and knows no model."""
