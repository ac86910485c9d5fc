"""Running scenarios: servers, phases, lanes, and what is seen from outside."""
