"""What runs on the node beside the containers."""
