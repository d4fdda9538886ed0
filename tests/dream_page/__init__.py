"""The dream's page: its export, and the page itself in a real Chromium."""
