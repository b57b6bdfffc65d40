import os

# Threads of scikit-learn that wait for each other by spinning would keep cores from the models that are scored beside:
# on busy cores trees took four times as long. It is read where the library of these threads is loaded, after this.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
