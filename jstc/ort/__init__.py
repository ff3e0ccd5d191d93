"""Everything measured in onnxruntime: latencies, operators, memory, and on which machine. No torch."""
