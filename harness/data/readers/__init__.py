"""Data sets in folders: COCO, PASCAL VOC, WIDER FACE, images without annotations."""
