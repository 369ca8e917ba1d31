"""The networks for other runtimes: ONNX and StableHLO files, and ONNX Runtime as an engine."""
