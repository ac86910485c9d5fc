"""The endpoints of the control process. Nothing here can block: work goes to the registry's handle, and
health and metrics read memory."""
