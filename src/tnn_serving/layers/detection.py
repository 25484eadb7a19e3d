"""Anchors, decoding of boxes and suppression of overlapping ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import FLOAT, INT32, Operand
from tnn_serving.layers.parameters import FLOAT32_LOWEST, CBool, Int64, counted, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import buffer, entry_label
from tnn_serving.tensor import Tensor

CODE_TYPES = {1: "corner", 2: "centre and size", 3: "corner in units of the size"}
SAME_RATIO = 1e-6
"""A ratio this near to 1 makes no box of its own: TNN's PriorBox compares so."""
ARM_CONFIDENCE = 0.1
"""Priors whose second arm confidence is below are background: TNN's DetectionOutput has the number in its code."""


@layer(335, "NonMaxSuppression")
class NonMaxSuppression(Layer):
    """Indices of boxes that do not overlap a better one of their class by more than a threshold.

    ONNX: NonMaxSuppression, Cast to int32.
    TNN differs: reserves room for one class only (a defect).
    """

    operands = (Operand("boxes", "[B, N, 4]", FLOAT), Operand("scores", "[B, C, N]", FLOAT))
    results = (Operand("rows", "[S, 3]", INT32, doc="batch, class, box; ordered by batch, class, falling score"),)
    made_from = ("NonMaxSuppression(boxes, scores, most?, overlap?, score?)",)

    center_point_box: int = token(
        "form of the boxes", default=0, values={0: "y1 x1 y2 x2, corners in any order", 1: "xc yc w h"}
    )
    max_output_boxes_per_class: Int64 = token("most boxes of a class; 0: none", default=Int64(0))
    iou_threshold: float = token("overlap above which the worse box is dropped", default=0.0)
    score_threshold: float = token("scores must be above", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored numbers."""
        most, overlap, score = m.get("most"), m.get("overlap"), m.get("score")
        return cls.made(
            m,
            m["boxes"],
            m["scores"],
            center_point_box=m.attribute("center_point_box", 0),
            max_output_boxes_per_class=Int64(0 if most is None else int(most.scalar())),
            iou_threshold=0.0 if overlap is None else overlap.scalar(),
            score_threshold=FLOAT32_LOWEST if score is None else score.scalar(),
        )

    def to_onnx(self, g: Builder, boxes: Value, scores: Value) -> Value:
        """See the class."""
        return g.cast(
            suppressed(
                g,
                boxes,
                scores,
                most=g.const(np.int64(self.max_output_boxes_per_class)),
                overlap=self.iou_threshold,
                score=self.score_threshold,
                center_point_box=self.center_point_box,
            ),
            np.int32,
        )


def suppressed(
    g: Builder, boxes: Value, scores: Value, *, most: Value, overlap: float, score: float, center_point_box: int = 0
) -> Value:
    """ONNX's NonMaxSuppression: int64 [S, 3].

    ONNX Runtime crashes where boxes and scores differ in number, and OpenVINO needs the 4 as a number: the Reshapes
    check the one and provide the other. No overlap is outside of 0 and 1, and ONNX Runtime takes no other threshold.
    """
    numbers = [g.size(boxes, 0), g.size(scores, 1), g.size(boxes, 1)]
    return g.op(
        "NonMaxSuppression",
        g.reshape(boxes, 0, 0, 4),
        g.op("Reshape", scores, g.op("Concat", *numbers, axis=0)),
        most,
        g.const(np.float32(min(max(overlap, 0.0), 1.0))),
        g.const(np.float32(score)),
        center_point_box=center_point_box or None,
    )


@layer(33, "PriorBox")
class PriorBox(Layer):
    """Anchor boxes of a feature map, with their variances: a function of sizes only.

    For each cell and each minimal size m: m x m; sqrt(m*M) squared if there are maximal sizes M; m*sqrt(a) x
    m/sqrt(a) for each ratio a other than 1. Corners are divided by the image size.

    ONNX: Shape, Range, Expand, Concat, Add, Div, Clip, Reshape.
    TNN differs: the list of ratios should contain 1; where it does not, more boxes are made than P counts, and those
        at the end are cut.
    """

    operands = (
        Operand("x", "[N, C, H, W]", doc="the feature map"),
        Operand("image", "[N, C0, H0, W0]", doc="gives the image size that the parameters leave open", optional=True),
    )
    results = (
        Operand(
            "y",
            "[1, 2, H*W*P*4, 1]",
            FLOAT,
            doc="boxes (xmin, ymin, xmax, ymax), then variances; P = ratios * min sizes + max sizes",
        ),
    )
    reads_dims_only = True

    min_sizes: tuple[float, ...] = counted("minimal sizes in pixels; fractions are cut off")
    max_sizes: tuple[float, ...] = counted("maximal sizes in pixels, none or one for each minimal one")
    clip: bool = token("1 clips boxes to 0...1")
    flip: bool = token("ignored by TNN: ratios are listed with their inverses")
    variances: tuple[float, ...] = counted("one, or one for each coordinate")
    aspect_ratios: tuple[float, ...] = counted("width / height")
    img_w: int = token("image width; 0: that of the second input")
    img_h: int = token("image height; 0: that of the second input")
    step_w: int = token("pixels per cell; 0: image width / W")
    step_h: int = token("pixels per cell; 0: image height / H")
    offset: float = token("centre of the first cell, in cells")

    def to_onnx(self, g: Builder, x: Value, image: Value | None = None) -> Value:
        """See the class."""
        shapes = self._shapes()
        count = len(self.aspect_ratios) * len(self.min_sizes) + len(self.max_sizes)
        if len(self.variances) not in (1, 4) or count > len(shapes):
            raise ShapeError(
                "parameters do not fit each other",
                expected="one or four variances; as many boxes as ratios * min_sizes + max_sizes",
                found=f"{len(self.variances)} variances, {len(shapes)} boxes for {count}",
            )
        rows, columns = g.size(x, 2), g.size(x, 3)
        if self.img_w and self.img_h:
            width, height = g.const([float(self.img_w)]), g.const([float(self.img_h)])
        elif image is not None:
            width, height = (g.cast(g.size(image, axis), np.float32) for axis in (3, 2))
        else:
            raise ShapeError("image size is not given", expected="img_w and img_h, or a second input")
        if self.step_w and self.step_h:
            step_w, step_h = g.const([float(self.step_w)]), g.const([float(self.step_h)])
        else:
            step_w = g.op("Div", width, g.cast(columns, np.float32))
            step_h = g.op("Div", height, g.cast(rows, np.float32))
        grid = g.op("Concat", rows, columns, g.ints(1, 1), axis=0)
        across = g.op("Expand", g.reshape(self._centres(g, columns, step_w), 1, -1, 1, 1), grid)
        down = g.op("Expand", g.reshape(self._centres(g, rows, step_h), -1, 1, 1, 1), grid)
        half = np.array([(-w / 2, -h / 2, w / 2, h / 2) for w, h in shapes], np.float32)
        corners = g.op("Add", g.op("Concat", across, down, across, down, axis=3), g.const(half))
        boxes = g.op("Div", corners, g.op("Concat", width, height, width, height, axis=0))
        if self.clip:
            boxes = g.op("Clip", boxes, g.const(0.0), g.const(1.0))
        number = g.op("Mul", g.op("Mul", rows, columns), g.ints(count))
        flat = g.reshape(boxes, -1, 4)
        if count < len(shapes):
            flat = g.op("Slice", flat, g.ints(0), number)
        values = np.resize(np.array(self.variances, np.float32), 4).reshape(1, 4)
        variances = g.op("Expand", g.const(values), g.op("Concat", number, g.ints(4), axis=0))
        return g.op("Concat", g.reshape(flat, 1, 1, -1, 1), g.reshape(variances, 1, 1, -1, 1), axis=1)

    def _shapes(self) -> list[tuple[float, float]]:
        """Widths and heights of a cell's boxes, in their order."""
        if self.max_sizes and len(self.max_sizes) < len(self.min_sizes):
            raise ShapeError(
                "number of maximal sizes", expected=f"0 or {len(self.min_sizes)}", found=len(self.max_sizes)
            )
        numbers = np.array([*self.min_sizes, *self.max_sizes, *self.aspect_ratios])
        if not (np.isfinite(numbers).all() and (numbers >= 0).all() and all(self.aspect_ratios)):
            raise ShapeError(
                "sizes and ratios must be finite and not negative, ratios not 0",
                found=f"{self.min_sizes}, {self.max_sizes}, {self.aspect_ratios}",
            )
        found = []
        for k, size in enumerate(self.min_sizes):
            least = float(int(size))
            found.append((least, least))
            if self.max_sizes:
                between = math.sqrt(least * int(self.max_sizes[k]))
                found.append((between, between))
            for ratio in self.aspect_ratios:
                if abs(ratio - 1) >= SAME_RATIO:
                    found.append((least * math.sqrt(ratio), least / math.sqrt(ratio)))
        return found

    def _centres(self, g: Builder, count: Value, step: Value) -> Value:
        cells = g.op("Range", g.const(np.int64(0)), g.op("Squeeze", count), g.const(np.int64(1)))
        return g.op("Mul", g.op("Add", g.cast(cells, np.float32), g.const(np.float32(self.offset))), step)


@layer(197, "DetectionPostProcess")
class DetectionPostProcess(Layer):
    """Decodes boxes against anchors and suppresses overlapping ones over all classes (fast NMS of TFLite).

    yc = y/y_scale*ah + ay, h = exp(h/h_scale)*ah, and so for x; each anchor counts with its best class.

    ONNX: elementwise decoding, ReduceMax, ArgMax, NonMaxSuppression, Gather, Pad.
    """

    operands = (
        Operand("boxes", "[1, n, A] or [1, n, A, 1]", FLOAT, doc="y, x, h, w in the first four rows"),
        Operand("scores", "[1, C, A] or [1, C, A, 1]", FLOAT, doc="the last num_classes rows count"),
    )
    results = (
        Operand("boxes", "[1, M, 4, 1]", FLOAT, doc="ymin, xmin, ymax, xmax; M = max_detections"),
        Operand("classes", "[1, M, 1, 1]", FLOAT),
        Operand("scores", "[1, M, 1, 1]", FLOAT, doc="zeros behind the last detection"),
        Operand("number", "[1, 1, 1, 1]", FLOAT),
    )
    counts_inputs = True

    max_detections: int = token("most detections", default=0, ge=1)
    max_classes_per_detection: int = token("must be 1", default=0, ge=1)
    detections_per_class: int = token("ignored by TNN", default=0)
    use_regular_nms: int = token("must be 0", default=0)
    nms_score_threshold: float = token("scores must be above", default=0.0)
    nms_iou_threshold: float = token("overlap above which the worse box is dropped", default=0.0)
    num_classes: int = token("classes without background", default=0, ge=1)
    y_scale: float = token("scale of y", default=0.0)
    x_scale: float = token("scale of x", default=0.0)
    h_scale: float = token("scale of h", default=0.0)
    w_scale: float = token("scale of w", default=0.0)
    has_anchors: int = token("ignored by TNN", default=0)
    num_anchors: int = token("ignored by TNN: the anchors decide", default=0)
    anchors_coord_num: int = token("ignored by TNN: 4", default=0)

    label: str | None = entry_label("empty")
    anchors: Tensor | None = buffer("[number, 4]: y, x, h, w")

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """One anchor per box."""
        return {"anchors": draw.around("anchors", inputs[0].dim(2) * 4, 0.5)}

    def to_onnx(self, g: Builder, boxes: Value, scores: Value) -> Sequence[Value]:
        """See the class."""
        self._check()
        boxes, scores = (self._planar(g, blob) for blob in (boxes, scores))
        stored = self.need("anchors")
        anchors = g.const(stored, np.float32, dims=(stored.size // 4, 4)).fixed()
        if boxes.dim(1) < 4 or boxes.dim(2) > len(anchors) or scores.dim(2) < boxes.dim(2):
            raise ShapeError(
                "boxes, scores and anchors do not fit",
                expected=f"boxes [1, 4, up to {len(anchors)}] and as many scores",
                found=f"{list(boxes.dims)} and {list(scores.dims)}",
            )
        count = g.size(boxes, 2)
        rows = g.const(np.ascontiguousarray(anchors.T)[None])
        y, x, h, w = self._four(g, boxes)
        ay, ax, ah, aw = self._four(g, g.op("Slice", rows, g.ints(0), count, g.ints(2)))
        yc, half_h = self._decoded(g, y, h, ay, ah, self.y_scale, self.h_scale)
        xc, half_w = self._decoded(g, x, w, ax, aw, self.x_scale, self.w_scale)
        corners = [g.op(how, c, half) for how in ("Sub", "Add") for c, half in ((yc, half_h), (xc, half_w))]
        decoded = g.op("Transpose", g.op("Concat", *corners, axis=1), perm=[0, 2, 1])
        skipped = scores.dim(1) - self.num_classes
        if skipped < 0:
            raise ShapeError("scores have fewer rows than num_classes", expected=self.num_classes, found=scores.dim(1))
        cut = g.op("Slice", scores, g.ints(skipped, 0), g.op("Concat", g.size(scores, 1), count, axis=0), g.ints(1, 2))
        best = g.op("ReduceMax", cut, g.ints(1), keepdims=1)
        kind = g.op("ArgMax", cut, axis=1, keepdims=0)
        rows = suppressed(
            g,
            decoded,
            best,
            most=g.const(np.int64(self.max_detections)),
            overlap=self.nms_iou_threshold,
            score=self.nms_score_threshold,
        )
        chosen = g.op("Gather", rows, g.const(np.int64(2)), axis=1)
        number = g.size(chosen, 0)
        missing = g.op("Sub", g.ints(self.max_detections), number)
        found = [
            g.op("Gather", g.reshape(decoded, -1, 4), chosen, axis=0),
            g.op("Unsqueeze", g.op("Gather", g.reshape(g.cast(kind, np.float32), -1), chosen, axis=0), g.ints(1)),
            g.op("Unsqueeze", g.op("Gather", g.reshape(best, -1), chosen, axis=0), g.ints(1)),
        ]
        pads = g.op("Concat", g.ints(0), missing, axis=0)
        padded = [g.op("Pad", blob, pads, None, g.ints(0)) for blob in found]
        widths = (4, 1, 1)
        made = [g.reshape(p, 1, self.max_detections, n, 1) for p, n in zip(padded, widths, strict=True)]
        return [*made, g.reshape(g.cast(number, np.float32), 1, 1, 1, 1)]

    def _check(self) -> None:
        if self.use_regular_nms or self.max_classes_per_detection != 1:
            raise UnsupportedLayer(
                "only the fast suppression with one class per box exists",
                expected="use_regular_nms 0, max_classes_per_detection 1",
                found=f"{self.use_regular_nms}, {self.max_classes_per_detection}",
            )
        if self.max_detections < 1 or not (self.y_scale and self.x_scale and self.h_scale and self.w_scale):
            raise ShapeError(
                "max_detections must be at least 1, scales not 0",
                found=f"{self.max_detections}; {self.y_scale}, {self.x_scale}, {self.h_scale}, {self.w_scale}",
            )

    @staticmethod
    def _planar(g: Builder, blob: Value) -> Value:
        return blob if blob.rank == 3 else g.op("Squeeze", blob, g.ints(3))

    @staticmethod
    def _four(g: Builder, planes: Value) -> list[Value]:
        return [g.op("Slice", planes, g.ints(k), g.ints(k + 1), g.ints(1)) for k in range(4)]

    @staticmethod
    def _decoded(
        g: Builder, at: Value, size: Value, anchor: Value, length: Value, at_scale: float, size_scale: float
    ) -> tuple[Value, Value]:
        centre = g.op("Add", g.op("Mul", g.op("Div", at, g.const(at_scale)), length), anchor)
        half = g.op("Mul", g.op("Mul", g.const(0.5), g.op("Exp", g.op("Div", size, g.const(size_scale)))), length)
        return centre, half


@layer(34, "DetectionOutput")
class DetectionOutput(Layer):
    """Decodes boxes against priors, suppresses overlapping ones of each class, keeps the best (SSD of Caffe).

    ONNX: elementwise decoding, TopK, GatherElements, NonMaxSuppression, ScatterND, TopK, ScatterElements, NonZero,
        GatherND, Concat.
    TNN differs: shared locations with background -1 decode nothing; several images with more rows than keep_top_k
        overrun its buffer (a defect).
    """

    operands = (
        Operand("loc", "[N, P*4*L, ...]", FLOAT, doc="L = 1 if shared, else num_classes"),
        Operand("conf", "[N, P*num_classes, ...]", FLOAT),
        Operand("prior", "[1, 2, P*4, ...]", FLOAT, doc="boxes, variances"),
        Operand("arm_conf", "[N, P*2, ...]", FLOAT, optional=True),
        Operand("arm_loc", "[N, P*4, ...]", FLOAT, optional=True),
    )
    results = (
        Operand(
            "rows",
            "[1, 1, S, 7]",
            FLOAT,
            doc="image, label, score, xmin, ymin, xmax, ymax; by image, label, falling score; "
            "[image, -1, -1, -1, -1, -1, -1] for each image where no image has any",
        ),
    )

    num_classes: int = token("classes, background among them", default=0, ge=1)
    share_location: CBool = token("1: one box per prior for all classes", default=CBool(0))
    background_label_id: int = token("class to skip, or -1", default=0)
    variance_encoded_in_target: CBool = token("1: variances are 1", default=CBool(0))
    code_type: int = token("how boxes are coded", default=0, values=CODE_TYPES)
    keep_top_k: int = token("most rows of an image", default=0, ge=1)
    confidence_threshold: float = token("scores must be above", default=0.0)
    nms_threshold: float = token("overlap above which the worse box is dropped", default=0.0)
    nms_top_k: int = token("candidates of a class, or -1 for all", default=0)
    eta: float = token("factor of the threshold after each kept box", default=0.0)

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class."""
        self._check()
        loc, conf, prior, *arms = inputs
        images = g.size(loc, 0)
        g.check_made(self.num_classes)
        labels = [k for k in range(self.num_classes) if k != self.background_label_id]
        nothing = self._nothing(g, images)
        if not labels or self.nms_top_k == 0 or (self.share_location and self.background_label_id == -1):
            return g.reshape(nothing, 1, 1, -1, 7)
        boxes, scores = self._candidates(g, loc, conf, prior, arms, labels)
        boxes, scores, per_class = self._best(g, boxes, scores, images, len(labels))
        kept = self._kept(g, boxes, scores, images, per_class, len(labels))
        where = g.op("Transpose", g.op("NonZero", kept), perm=[1, 0])
        image, place = (g.op("Slice", where, g.ints(k), g.ints(k + 1), g.ints(1)) for k in (0, 1))
        kinds = g.op("Gather", g.const(np.array(labels, np.float32)), g.op("Div", place, per_class), axis=0)
        rows = g.op(
            "Concat",
            g.cast(image, np.float32),
            kinds,
            g.op("Unsqueeze", g.op("GatherND", scores, where), g.ints(1)),
            g.op("GatherND", boxes, where),
            axis=1,
        )
        empty = g.cast(g.op("Equal", g.size(place, 0), g.ints(0)), np.int64)
        fallback = g.op("Slice", nothing, g.ints(0), g.op("Mul", images, empty))
        return g.reshape(g.op("Concat", rows, fallback, axis=0), 1, 1, -1, 7)

    def _check(self) -> None:
        if self.code_type not in CODE_TYPES:
            raise UnsupportedLayer("box coding is unknown", expected=CODE_TYPES, found=self.code_type)
        if self.eta < 1 and self.nms_threshold > 0.5:
            raise UnsupportedLayer(
                "adaptive suppression has no ONNX form",
                expected="eta at least 1, or nms_threshold up to 0.5",
                found=f"eta {self.eta:g}, nms_threshold {self.nms_threshold:g}",
            )
        if self.keep_top_k < 1 or self.num_classes < 1:
            raise ShapeError(
                "keep_top_k and num_classes must be at least 1", found=f"{self.keep_top_k}, {self.num_classes}"
            )

    @staticmethod
    def _nothing(g: Builder, images: Value) -> Value:
        """The rows [N, 7] of images without boxes."""
        index = g.op("Range", g.const(np.int64(0)), g.op("Squeeze", images), g.const(np.int64(1)))
        blank = g.op("Expand", g.const(np.float32(-1)), g.op("Concat", images, g.ints(6), axis=0))
        return g.op("Concat", g.op("Unsqueeze", g.cast(index, np.float32), g.ints(1)), blank, axis=1)

    def _candidates(
        self, g: Builder, loc: Value, conf: Value, prior: Value, arms: Sequence[Value], labels: Sequence[int]
    ) -> tuple[Value, Value]:
        """Boxes [N, L', P, 4] and scores [N, L, P] of the classes that count; L' is 1 if they share boxes."""
        planes = g.reshape(prior, 2, 1, -1, 1, 4)
        priors, variances = (g.op("Gather", planes, g.const(np.int64(k)), axis=0) for k in (0, 1))
        if planes.dim(2) * self.num_classes != math.prod(conf.dim(k) for k in range(1, conf.rank)):
            raise ShapeError(
                "confidences do not fit priors and classes",
                expected=f"{planes.dim(2)} x {self.num_classes} per image",
                found=list(conf.dims),
            )
        scores = g.reshape(conf, 0, -1, self.num_classes)
        if arms:
            object_score = g.op("Slice", g.reshape(arms[0], 0, -1, 2), g.ints(1), g.ints(2), g.ints(2))
            background = np.zeros(self.num_classes, np.float32)
            background[0] = 1
            scores = g.op("Where", g.op("Less", object_score, g.const(ARM_CONFIDENCE)), g.const(background), scores)
        if len(arms) == 2:
            priors = self._decoded(g, priors, variances, g.reshape(arms[1], 0, -1, 1, 4))
        each = 1 if self.share_location else self.num_classes
        boxes = g.op(
            "Transpose", self._decoded(g, priors, variances, g.reshape(loc, 0, -1, each, 4)), perm=[0, 2, 1, 3]
        )
        scores = g.op("Transpose", scores, perm=[0, 2, 1])
        if len(labels) < self.num_classes:
            scores = g.op("Gather", scores, g.ints(*labels), axis=1)
            boxes = boxes if self.share_location else g.op("Gather", boxes, g.ints(*labels), axis=1)
        return boxes, scores

    def _decoded(self, g: Builder, priors: Value, variances: Value, loc: Value) -> Value:
        """Corners of the boxes that ``loc`` [N, P, L, 4] means relative to ``priors`` [N or 1, P, 1, 4]."""
        scaled = loc if self.variance_encoded_in_target else g.op("Mul", variances, loc)
        if self.code_type == 1:
            return g.op("Add", priors, scaled)
        first = g.op("Slice", priors, g.ints(0), g.ints(2), g.ints(-1))
        last = g.op("Slice", priors, g.ints(2), g.ints(4), g.ints(-1))
        size = g.op("Sub", last, first)
        if self.code_type == 3:
            return g.op("Add", priors, g.op("Mul", scaled, g.op("Concat", size, size, axis=-1)))
        centre = g.op("Mul", g.op("Add", first, last), g.const(0.5))
        shift = g.op("Slice", scaled, g.ints(0), g.ints(2), g.ints(-1))
        growth = g.op("Slice", scaled, g.ints(2), g.ints(4), g.ints(-1))
        at = g.op("Add", g.op("Mul", shift, size), centre)
        half = g.op("Mul", g.op("Mul", g.op("Exp", growth), size), g.const(0.5))
        return g.op("Concat", g.op("Sub", at, half), g.op("Add", at, half), axis=-1)

    def _best(self, g: Builder, boxes: Value, scores: Value, images: Value, classes: int) -> tuple[Value, Value, Value]:
        """The nms_top_k best candidates K of each class: boxes [N, L*K, 4], scores [N, L*K], K as int64 [1].

        TNN cuts before it suppresses, ONNX's NonMaxSuppression behind.
        """
        per_class = g.size(scores, 2)
        if self.nms_top_k > 0:
            per_class = g.op("Min", per_class, g.ints(self.nms_top_k))
        best, order = g.op("TopK", scores, per_class, axis=2, outputs=2)
        dims = g.op("Concat", images, g.ints(classes), per_class, g.ints(4), axis=0)
        if self.share_location:
            whole = g.op("Concat", images, g.ints(classes), g.size(boxes, 2), g.ints(4), axis=0)
            boxes = g.op("Expand", boxes, whole)
        index = g.op("Expand", g.op("Unsqueeze", order, g.ints(3)), dims)
        chosen = g.op("GatherElements", boxes, index, axis=2)
        flat = g.op("Concat", images, g.ints(-1), axis=0)
        return g.op("Reshape", chosen, g.op("Concat", flat, g.ints(4), axis=0)), g.op("Reshape", best, flat), per_class

    def _kept(self, g: Builder, boxes: Value, scores: Value, images: Value, per_class: Value, classes: int) -> Value:
        """bool [N, L*K]: which candidates remain after suppression and the cut to keep_top_k."""
        lists = g.op("Mul", images, g.ints(classes))
        first = g.op("Slice", boxes, g.ints(0), g.ints(2), g.ints(2))
        # ONNX swaps crossed corners; TNN counts such a box as empty.
        last = g.op("Max", g.op("Slice", boxes, g.ints(2), g.ints(4), g.ints(2)), first)
        rows = suppressed(
            g,
            g.op(
                "Reshape",
                g.op("Concat", first, last, axis=2),
                g.op("Concat", lists, per_class, g.ints(4), axis=0),
            ),
            g.op("Reshape", scores, g.op("Concat", lists, g.ints(1), per_class, axis=0)),
            most=per_class,
            overlap=self.nms_threshold,
            score=self.confidence_threshold,
        )
        index = g.op("Gather", rows, g.ints(0, 2), axis=1)
        none = g.op("Expand", g.const(np.float32(0)), g.op("Concat", lists, per_class, axis=0))
        ones = g.op("Expand", g.const(np.float32(1)), g.size(rows, 0))
        mask = g.op("Reshape", g.op("ScatterND", none, index, ones), g.shape(scores))
        alive = g.op("Greater", mask, g.const(0.5))
        most = g.op("Min", g.ints(self.keep_top_k), g.size(scores, 1))
        _, order = g.op("TopK", g.op("Where", alive, scores, g.const(FLOAT32_LOWEST)), most, axis=1, outputs=2)
        selected = g.op(
            "ScatterElements", g.op("Sub", mask, mask), order, g.op("Expand", g.const(1.0), g.shape(order)), axis=1
        )
        return g.op("And", alive, g.op("Greater", selected, g.const(0.5)))
