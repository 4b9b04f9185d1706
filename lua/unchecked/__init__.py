"""Scripts that write what holdfast writes and check nothing: the ceiling that benches compare with."""
