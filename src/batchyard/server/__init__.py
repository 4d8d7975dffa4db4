"""What a server is made of; `app` puts it together."""
