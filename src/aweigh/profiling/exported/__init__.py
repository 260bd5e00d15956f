"""What exported files cost: graphs of ONNX and of OpenVINO."""
