"""Many small runs in one program, and what to read off them: coordinate check, learning-rate transfer, bisect, audit."""
