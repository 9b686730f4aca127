"""What a host may ask of a fetcher: limits, pauses, robots.txt, opt-outs."""
