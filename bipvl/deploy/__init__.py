"""Use a trained run: segment scans (NIfTI, DICOM), export it, make a MONAI bundle."""
