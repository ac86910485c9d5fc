"""Watch a server from outside while a fault bites, and judge whether it stayed lit."""
