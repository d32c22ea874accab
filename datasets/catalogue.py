"""The published data sets: what each must look like under the user's data folder, and how to get it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
SIGE_DATA = "https://www.cs.cmu.edu/~sige/resources/datasets"  # as in download_dataset.py of lmxyy/sige
CYCLEGAN_DATA = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets"  # as in CycleGAN's download script
CUT_DATA = "http://efrosgans.eecs.berkeley.edu/CUT/datasets"  # as in the README of CUT
CUT_CODE = "taesungp/contrastive-unpaired-translation"
GAN_WARPING_CODE = "PeterWang512/GANWarping"
CUSTOM_DIFFUSION_CODE = "adobe-research/custom-diffusion"
CUSTOM_DIFFUSION_DATA = "nupurkmr9/custom-diffusion"  # of https://huggingface.co, as in the README of the code
COCO = "http://images.cocodataset.org"
LOW_SHOT_PAGE = "https://hanlab.mit.edu/projects/data-efficient-gans/datasets"


@dataclass(frozen=True)
class DataSet:
    """A data set by its key. It is there if one of `marks`, paths under the data folder, exists."""

    key: str
    what: str
    papers: tuple[str, ...]
    marks: tuple[str, ...]
    remedy: str

    def find(self, root: Path | None) -> Path | None:
        """Where the set lies under `root`, None where it is missing."""
        return next(iter(self.places(root)), None)

    def places(self, root: Path | None) -> list[Path]:
        """All the marks that exist under `root`, in order."""
        return [root / mark for mark in self.marks if (root / mark).exists()] if root is not None else []


def _edits(key: str, what: str, script: str, md5: str) -> DataSet:
    return DataSet(
        key,
        what,
        ("sige",),
        (key,),
        f"unpack {key}.zip (md5 {md5}) from {SIGE_DATA} into the folder {key} of the data folder; {script} of "
        "lmxyy/sige does it",
    )


def _gan_warping(part: str, what: str, script: str) -> DataSet:
    """A folder of the published code, which its scripts download and unpack an archive into."""
    return DataSet(
        f"gan-warping-{part}",
        f"GAN Warping: {what}",
        ("gan_warping",),
        (f"gan_warping/{part}", f"GANWarping/{part}"),
        f"run `{script}` of {GAN_WARPING_CODE}, which unpacks {part}.zip, and move or link its folder {part} to "
        f"gan_warping/{part} of the data folder",
    )


def _custom_diffusion(key: str, what: str, place: str, remedy: str) -> DataSet:
    """What its README has one put into the checkout of its code, which a folder of the other name may stand for."""
    return DataSet(
        key,
        what,
        ("custom_diffusion",),
        (f"custom-diffusion/{place}", f"custom_diffusion/{place}"),
        f"{remedy} custom-diffusion/{place} of the data folder",
    )


def _from_hub(file: str) -> str:
    return f'hf download {CUSTOM_DIFFUSION_DATA} --include "{file}" --repo-type dataset --local-dir .'


def _low_shot(key: str, what: str) -> DataSet:
    return DataSet(
        key,
        f"{what}, a zip archive or a folder of pictures",
        ("diffaugment",),
        (f"{key}.zip", key),
        f"download {LOW_SHOT_PAGE}/{key}.zip into the data folder",
    )


def _lsun_validation(category: str, what: str) -> DataSet:
    return DataSet(
        f"lsun-{category.split('_')[0]}-val",
        f"{what}, the 300 validation pictures, LMDB",
        ("sdedit",),
        (f"{category}_val_lmdb", f"lsun/{category}_val_lmdb", f"{category}_val"),
        f"download {category}_val_lmdb.zip with download.py of fyu/lsun and unpack it into the data folder",
    )


DATA_SETS = (
    DataSet(
        "cifar10",
        "CIFAR-10, Python pickles or the binary version",
        ("diffaugment",),
        ("cifar-10-batches-py", "cifar-10-batches-bin"),
        f"unpack cifar-10-python.tar.gz from {CIFAR_PAGE} into the data folder",
    ),
    DataSet(
        "cifar100",
        "CIFAR-100, Python pickles or the binary version",
        ("diffaugment",),
        ("cifar-100-python", "cifar-100-binary"),
        f"unpack cifar-100-python.tar.gz from {CIFAR_PAGE} into the data folder",
    ),
    _low_shot("100-shot-obama", "100 portraits of Barack Obama"),
    _low_shot("100-shot-grumpy_cat", "100 portraits of Grumpy Cat"),
    _low_shot("100-shot-panda", "100 portraits of pandas"),
    _low_shot("AnimalFace-cat", "160 cat faces"),
    _low_shot("AnimalFace-dog", "389 dog faces"),
    DataSet(
        "ffhq",
        "FFHQ, TFRecord files of one resolution each or a folder or zip archive of pictures",
        ("diffaugment",),
        ("ffhq-r08.tfrecords", "ffhq-256.tfrecords", "ffhq", "ffhq.zip", "ffhq256", "ffhq256.zip"),
        "download ffhq-r08.tfrecords (256 px), linked from the README of NVlabs/ffhq-dataset, into the data folder",
    ),
    DataSet(
        "lsun-cat",
        "LSUN-Cat, LMDB",
        ("diffaugment",),
        ("cat", "cat_lmdb", "lsun-cat", "lsun/cat", "lsun/cat_lmdb"),
        "download cat.zip as the README of fyu/lsun says and unpack it into the data folder",
    ),
    _lsun_validation("church_outdoor", "LSUN churches"),
    _lsun_validation("bedroom", "LSUN bedrooms"),
    DataSet(
        "sdedit-strokes",
        "stroke paintings by hand, each a .pth file of SDEdit: the list [mask, image]",
        ("sdedit",),
        ("sdedit-strokes",),
        "put your own .pth files, or those that the README of ermongroup/SDEdit names, into the folder sdedit-strokes "
        "of the data folder; the paper's are not published",
    ),
    DataSet(
        "sdedit-composites",
        "faces with something pasted in: folders original, composite and mask, pictures of one name in each",
        ("sdedit",),
        ("sdedit-composites",),
        "put composites of CelebA-HQ at 256 px into the folder sdedit-composites of the data folder, as "
        "original/NAME.png, composite/NAME.png and mask/NAME.png (white is what was pasted); the paper's are not "
        "published",
    ),
    DataSet(
        "imagenet",
        "ImageNet 2012, train and val folders",
        ("diffaugment",),
        ("imagenet", "ILSVRC2012"),
        "register at https://image-net.org, download ILSVRC2012 and unpack it into imagenet/train and imagenet/val, "
        "one folder a class",
    ),
    _edits(
        "church_outdoor_sdedit",
        "454 LSUN churches, each with an edit by strokes",
        "diffusion/download_dataset.py",
        "149d28096a94cfb48210e5950ffa613a",
    ),
    # Later versions of the script repeat the md5 of the churches here; this one is of its first version.
    _edits(
        "cityscapes-edit",
        "pairs of label maps of Cityscapes, one of them edited",
        "gaugan/download_dataset.py",
        "f51ca362c4f7f0f733132ff9fe24613c",
    ),
    DataSet(
        "horse2zebra",
        "horses and zebras, 256 px: folders trainA, trainB, testA and testB",
        ("cut",),
        ("horse2zebra",),
        f"download {CYCLEGAN_DATA}/horse2zebra.zip and unpack it in the data folder; datasets/download_cut_dataset.sh "
        f"of {CUT_CODE} does it",
    ),
    DataSet(
        "cat2dog",
        "cats and dogs of AFHQ (version 1), 512 px: folders trainA, trainB, testA and testB",
        ("cut",),
        ("cat2dog", "afhq/cat2dog"),
        "get AFHQ with `bash download.sh afhq-dataset` of clovaai/stargan-v2 (its first version, not afhq-v2-dataset), "
        "and copy or link its folders train/cat, train/dog, val/cat and val/dog as trainA, trainB, testA and testB of "
        "the folder cat2dog of the data folder",
    ),
    DataSet(
        "cityscapes",
        "Cityscapes as published: folders leftImg8bit and gtFine",
        ("cut",),
        ("cityscapes/leftImg8bit", "leftImg8bit"),
        "register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip, and unpack both into the folder cityscapes of the data folder",
    ),
    DataSet(
        "cityscapes-cut",
        "Cityscapes prepared for CUT, 256 px: folders trainA (photographs), trainB (label maps), testA and testB",
        ("cut",),
        ("cityscapes-cut",),
        "get cityscapes, and prepare it into the folder cityscapes-cut of the data folder with `gengauge prepare "
        f"cityscapes`, as datasets/prepare_cityscapes_dataset.py of {CUT_CODE} does",
    ),
    DataSet(
        "cityscapes-val-for-cut",
        "the validation pictures of Cityscapes as the authors of CUT prepared them: folders valA and valB",
        ("cut",),
        ("cityscapes_val", "cityscapes_val_for_CUT"),
        f"download {CUT_DATA}/cityscapes_val_for_CUT.tar into the data folder and unpack it there; valA and valB "
        "belong into its folder cityscapes_val",
    ),
    DataSet(
        "spair-71k",
        "SPair-71k: folders JPEGImages, PairAnnotation and ImageAnnotation",
        ("gangealing",),
        ("SPair-71k", "spair/SPair-71k"),
        "unpack SPair-71k.tar.gz from https://cvlab.postech.ac.kr/research/SPair-71k/data into the data folder",
    ),
    DataSet(
        "cub",
        "CUB-200-2011, and ACSM's list of validation pictures",
        ("gangealing",),
        ("CUB_200_2011", "cub/CUB_200_2011"),
        "unpack CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158/files into the data folder, and put "
        "val_cub_cleaned.mat from http://efrosgans.eecs.berkeley.edu/gangealing beside its folder CUB_200_2011",
    ),
    _gan_warping(
        "data",
        "edits: a folder for each generator, in it one for each edit with train, val and test",
        "bash data/download_data.sh",
    ),
    _gan_warping(
        "weights",
        "edited weights, .pth files, and eval_task, the list of what is evaluated",
        "bash weights/download_weights.sh",
    ),
    _gan_warping(
        "pretrained",
        "the generators that were edited, .pkl files: stylegan3-r-afhqv2cat-512x512, -afhqv2dog-512x512, "
        "-afhqv2wild-512x512, -ffhq-1024x1024, -horse-256x256 and -house-512x512, stylegan2-car-config-f, "
        "-afhqcat and -church-config-f",
        "bash pretrained/download_pretrained_models.sh",
    ),
    _custom_diffusion(
        "custom-diffusion-data",
        "Custom Diffusion: pictures of the paper's concepts but flower, table and chair, which are not released, and "
        "captions for the merge",
        "data",
        f"get data.zip with `{_from_hub('data.zip')}` and unpack it, so that there is a folder a concept in",
    ),
    _custom_diffusion(
        "custom-diffusion-prompts",
        "Custom Diffusion: the paper's prompts, a file a concept or pair",
        "prompts",
        f"git clone https://github.com/{CUSTOM_DIFFUSION_CODE} in the data folder (its licence is for research that is "
        "not commercial), so that there is",
    ),
    DataSet(
        "custom-diffusion-validation",
        "Custom Diffusion: real pictures of the concepts' classes, for KID",
        ("custom_diffusion",),
        ("custom-diffusion/validation", "custom_diffusion/validation"),
        "put about 500 pictures of each class that no training sees into folders named after the concepts (cat, "
        "wooden_pot, ...) in custom-diffusion/validation of the data folder, with images.txt and caption.txt where "
        "they have captions; the paper's are not published",
    ),
    _custom_diffusion(
        "custom-diffusion-models",
        "Custom Diffusion: the authors' deltas of the paper's concepts",
        "models",
        f"get the folder models with `{_from_hub('models/*')}`, so that it is",
    ),
    _custom_diffusion(
        "customconcept101",
        "CustomConcept101: pictures of 101 concepts, a folder each (3.4 GB)",
        "customconcept101/benchmark_dataset",
        f"get benchmark_dataset.zip with `{_from_hub('benchmark_dataset.zip')}` and unpack it, so that there is a "
        "folder a concept in",
    ),
    _custom_diffusion(
        "customconcept101-prompts",
        "CustomConcept101: its lists of concepts and pairs, and its prompts",
        "customconcept101/dataset.json",
        f"git clone https://github.com/{CUSTOM_DIFFUSION_CODE} in the data folder (its licence is for research that is "
        "not commercial), so that there is",
    ),
    DataSet(
        "dreambench",
        "DreamBench, the set of DreamBooth: 30 subjects, and prompts_and_classes.txt",
        ("custom_diffusion",),
        ("dreambooth/dataset", "dreambench"),
        "git clone https://github.com/google/dreambooth in the data folder, so that there is "
        "dreambooth/dataset/prompts_and_classes.txt",
    ),
    DataSet(
        "coco-captions",
        "captions of COCO's validation pictures",
        ("custom_diffusion",),
        tuple(f"{place}captions_val{year}.json" for year in (2017, 2014) for place in ("coco/annotations/", "coco/")),
        f"unpack annotations_trainval2017.zip from {COCO}/annotations into the folder coco of the data folder",
    ),
    DataSet(
        "coco-val",
        "COCO's validation pictures (2017: 5,000; 2014: 40,504)",
        ("custom_diffusion",),
        ("coco/val2017", "coco/val2014"),
        f"unpack val2017.zip from {COCO}/zips into the folder coco of the data folder",
    ),
    DataSet(
        "stable-diffusion-v1-4",
        "Stable Diffusion 1.4 as a folder of diffusers, which `gengauge concept` works on (CreativeML Open RAIL-M "
        "licence)",
        ("custom_diffusion",),
        ("stable-diffusion-v1-4",),
        "hf download CompVis/stable-diffusion-v1-4 --local-dir stable-diffusion-v1-4 --exclude '*.bin' in the data "
        "folder",
    ),
    DataSet(
        "grumpifycat",
        "88 Russian Blue cats and 214 pictures of Grumpy Cat: folders trainA and trainB",
        ("cut",),
        ("grumpifycat",),
        f"run `bash ./datasets/download_cut_dataset.sh grumpifycat` of {CUT_CODE} and move what it makes, "
        "datasets/grumpifycat, into the data folder",
    ),
    DataSet(
        "single_image_monet_etretat",
        "a painting of Monet and a photograph of Etretat, one picture a domain: folders trainA and trainB",
        ("cut",),
        ("single_image_monet_etretat",),
        f"copy datasets/single_image_monet_etretat of {CUT_CODE} into the data folder",
    ),
    DataSet(
        "single_image",
        "a pair of pictures of your own, one a domain: folders trainA and trainB",
        ("cut",),
        ("single_image",),
        "put one picture into the folder single_image/trainA of the data folder and one into single_image/trainB, each "
        "at least 64 px a side",
    ),
)


def data_set(key: str) -> DataSet:
    """The data set of a key. Raises KeyError naming the keys there are."""
    for entry in DATA_SETS:
        if entry.key == key:
            return entry
    raise KeyError(f"there is no data set {key!r}; there are {', '.join(entry.key for entry in DATA_SETS)}")


def data_folder() -> Path | None:
    """The folder of published data sets: $GENGAUGE_DATA, None where it is not set."""
    return Path(os.environ["GENGAUGE_DATA"]) if os.environ.get("GENGAUGE_DATA") else None
