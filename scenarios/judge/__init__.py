"""The rules: what was observed, what it means, and what a kubelet would have made of it. All pure."""
