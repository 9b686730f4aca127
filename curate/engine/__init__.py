"""Where units are run: in processes of this machine (`local`) or on Ray (`ray`)."""
