"""Data sets in folders: COCO, PASCAL VOC, WIDER FACE, YOLO, tables of boxes, images without annotations."""
