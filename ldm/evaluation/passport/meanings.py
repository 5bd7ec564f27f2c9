"""What every figure of a passport is called, and what it means, in one sentence."""

from types import MappingProxyType

MEANINGS = MappingProxyType(
    {
        "size": (
            "Image size",
            "Encoders see images of different sizes at different magnifications, so both folders should have one size.",
        ),
        "jpeg": (
            "JPEG",
            "Share of images that are JPEG files, or lossless files with its rounding (found up to quality 90), and "
            "their median quality: compression in one folder alone makes distances too large.",
        ),
        "detail": (
            "Fine detail",
            "Power at the finest detail over that of details two to three times as large, in dB, median: a difference "
            "means resizing, blur or noise in one folder.",
        ),
        "interpolation": (
            "Interpolation",
            "The regular pattern that interpolation leaves between pixels, and the enlargements that fit it.",
        ),
        "frechet": (
            "Frechet distance",
            "Distance of the two distributions, taken as Gaussians; it falls as images are added, so read it against "
            "the real column.",
        ),
        "kid": ("KID", "Distance of the two distributions without that bias: 0 where they are equal."),
        "mmd": (
            "CMMD",
            "Distance of the two distributions under a Gaussian kernel, times 1000: 0 where they are equal.",
        ),
        "precision": (
            "Precision",
            "Share of the generated images that lie among the real ones: low when they look wrong.",
        ),
        "recall": (
            "Recall",
            "Share of the real images that lie among the generated ones: low when few kinds are made.",
        ),
        "density": (
            "Density",
            "How many real images are near a generated one, over k = 5: low when generated images look wrong.",
        ),
        "coverage": (
            "Coverage",
            "Share of the real images with a generated one nearby: low when few kinds are made.",
        ),
        "authenticity": (
            "Authenticity",
            "Share of the generated images that are farther from the nearest real one than that is from another real "
            "one: near 0 for copies.",
        ),
        "memorisation": (
            "Nearer to the training images than held-out real ones",
            "Probability that a generated image lies nearer to a training image than a held-out real one does (0.5 for "
            "a generator that copies nothing), and its p-value, for which images of one patient count as one.",
        ),
        "nearer_than_all": (
            "Nearer than every held-out image",
            "Generated images that lie nearer to a training image than any held-out real one does, beside the number "
            "to expect of a generator that copies nothing, and the chance of so many by its order alone.",
        ),
        "copies": (
            "Copies of real images",
            "Generated images that show the same pixels as a real one, also turned, mirrored, recompressed or resized.",
        ),
        "repeats": (
            "Repeated generated images",
            "Generated images that show the same pixels as another generated one: a sign that few kinds are made.",
        ),
        "shared_patients": (
            "Patients in both real folders",
            "Patients or slides whose name is among training and held-out images (TCGA barcodes, or a file's name "
            "before _ROW_COL): what is measured on them is too good; other names, such as 0001.png, say no patient, "
            "so that each of these images counts as a patient of its own.",
        ),
        "shared_images": (
            "Images in both real folders",
            "Held-out images that show the same pixels as a training one, also turned, mirrored, recompressed or "
            "resized.",
        ),
        "synthetic_training": (
            "Trained on generated, tested on real",
            "Area under the ROC curve, on held-out real images, of a logistic regression of the labels that learnt "
            "from generated images, beside one that learnt from real ones: equal where generated ones teach as well.",
        ),
    }
)
"""key -> name, sentence"""
