"""What tests share: a private network, the running product, a cast of clients, waiting for conditions."""
