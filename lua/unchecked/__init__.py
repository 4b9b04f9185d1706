"""Scripts that write what holdfast writes and check nothing: what benches compare with."""
