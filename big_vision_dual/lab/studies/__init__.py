"""Many small runs in one program, and what they show: coordinate check, learning-rate transfer, bisect, audit."""
