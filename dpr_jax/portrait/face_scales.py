"""What the two networks of the embedded face finder see and answer, in numbers. Apart from them, who take Flax."""

# MediaPipe's numbering: 468 of the mesh and 10 on the irises.
NUM_LANDMARKS = 478
# The detector answers once for every so many pixels.
DETECTOR_STRIDE = 8
# Side of a face, in pixels, whose logarithm the detector calls 0; it knows faces of about 0.65 to 1.5 of it.
DETECTOR_SIDE = 22.0
# Side of the square that the landmark network sees, and how much of it the face fills.
LANDMARK_SIZE = 128
CLOSE_UP = 1.5
