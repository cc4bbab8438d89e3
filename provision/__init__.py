"""Create a cloud VM, and what runs on it: the verbs `make vm-*`, and the VM's own bootstrap."""
