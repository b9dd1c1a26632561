"""TPU pods: what a slice is, what a step costs there before one is paid for, and how to run on one."""
