"""A TFDS data set of a few small JPEG images, written in a moment: `tiny` 1.0.0, train 21 in 3 files, test 10 in 1."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import photos

TRAIN_FILES = (7, 5, 9)  # examples in each, uneven on purpose
NUM_TRAIN, NUM_TEST = sum(TRAIN_FILES), 10
NUM_CLASSES = 100  # image i of train has label i, image i of test label 50 + i


def write(root: pathlib.Path, images: Mapping[int, bytes] | None = None) -> str:
    """Writes the data set under `root` and returns the data_dir to give to a config; images: {label: file} instead."""
    import tensorflow_datasets as tfds

    from big_vision_dual.train.pp.quiet_tf import tf

    folder = root / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    splits = []
    for name, files, label in (("train", TRAIN_FILES, 0), ("test", (NUM_TEST,), 50)):
        splits.append(tfds.core.SplitInfo(name=name, shard_lengths=list(files), num_bytes=0))
        for number, count in enumerate(files):
            path = folder / f"tiny-{name}.tfrecord-{number:05d}-of-{len(files):05d}"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for index in range(label, label + count):
                    image = (images or {}).get(index) or photos.synthetic(24 + index % 3, 32, seed=index)
                    example = {"image": image, "label": index, "file_name": f"{index}.jpg"}
                    writer.write(features.serialize_example(features.encode_example(example)))
            label += count
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    return str(root)
