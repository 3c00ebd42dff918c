"""A model as a graph that other programs run: ONNX, OpenVINO IR, a `torch.export` program."""
