"""A pod's connections while its containers cannot answer: waiting for the next one, and handing it over."""
