"""How work is done once and accounted for: parts, passes, markers, rounds. Knows no pass by name."""
