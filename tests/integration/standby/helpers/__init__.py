"""What the tests of standby share: applications that check themselves, and looks at frozen processes."""
