import os

# Networks this small are slower on two threads than on one, and ten times slower where the cores are busy with something else.
os.environ.setdefault("OMP_NUM_THREADS", "1")
