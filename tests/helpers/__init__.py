"""What tests are made of: small runs, servers and pictures. No test stands here."""
