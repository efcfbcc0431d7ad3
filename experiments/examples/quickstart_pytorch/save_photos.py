"""Write the private photos of the first clients, as an auditor with consent has them: photos/PARTITION/00.png, ...

python save_photos.py 6
"""

import sys
from pathlib import Path

from pytorchexample.task import people

from experiments.audit.inversion import png

count = int(sys.argv[1])
for partition in range(count):
    folder = Path("photos") / str(partition)
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(people(count).user(partition).private.photos):
        (folder / f"{number:02}.png").write_bytes(png(photo))
