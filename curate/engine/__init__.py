"""The engines that run units: in processes of this machine (`local`) or on Ray (`ray`)."""
