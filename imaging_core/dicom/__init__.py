"""DICOM reading and writing: headers, pixels, Secondary Capture, and the child process that touches untrusted bytes."""
