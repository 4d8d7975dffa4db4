"""What has to be done when its time has come."""
