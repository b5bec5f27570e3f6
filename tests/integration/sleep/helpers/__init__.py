"""What the tests of sleep share: applications, clients for them, and looks at what the shim says."""
