"""Corruptions of duplicates, patients, splits, dataset.json and prompts, with the messages of the check."""

import json
import shutil

import numpy as np
from corrupting import SECTIONS, Place, corruption, moved
from data_files import image_of, label_of, save

# --- duplicates, patients, splits ---


@corruption("mmwhs_ct", ("1003_image.nii.gz", "holds the same voxels as ct_train_1001_image.nii.gz;"))
def duplicate_case(place):
    for one, other in zip(place.case(1), place.case(3), strict=True):
        shutil.copy(one, other)


@corruption("mmwhs_ct", ("1003_image.nii.gz", "holds the same voxels as ct_train_1001_image.nii.gz;"))
def duplicate_case_of_another_type_and_position(place):
    for i in (1, 3):
        image = image_of(place.spec).round().astype(np.int16 if i == 1 else np.float64)
        save(place.case(i)[0], image, moved(x3=i))
        place.edit_header(place.case(i)[1], lambda scan, i=i: scan.set_sform(moved(x3=i), 2))
        place.edit_header(place.case(i)[1], lambda scan: scan.set_qform(None, 0))


@corruption(
    "amos22", ("imagesVa/amos_0401.nii.gz", "amos_0001.nii.gz, across splits (validation and training);")
)
def duplicate_case_in_training_and_test(place):
    for kind in ("images", "labels"):
        shutil.copy(
            place.folder / f"{kind}Tr" / "amos_0001.nii.gz", place.folder / f"{kind}Va" / "amos_0401.nii.gz"
        )


@corruption("mmwhs_ct", ("ct_train_1002_label.nii.gz", "holds the same labels as ct_train_1001_label.nii.gz"))
def label_of_another_case(place):
    shutil.copy(place.case(1)[1], place.case(2)[1])


@corruption("knee", ("imagesVa/P1_other.nii.gz", "is of the patient P1, as is P1_left.nii.gz, across splits"))
def patient_in_training_and_test(place):
    place.rename_case("P3_left", "P1_other", "Va")


@corruption("knee", ("/knee", "holds the case left, whose patient '(P\\d+)_' does not find; rename it"))
def case_without_its_patient(place):
    place.rename_case("P3_left", "left", "Va")


def written_split(place: Place, **parts: list[str]) -> None:
    (place.root / "split.json").write_text(json.dumps({"dataset": place.spec.name, "seed": 0} | parts))


CT = SECTIONS["mmwhs_ct"]["training"]
WITH_SPLIT = ("--split", "{root}/split.json")


@corruption("mmwhs_ct", ("split.json", "has ct_train_1001 more than once"), options=WITH_SPLIT)
def split_with_a_case_in_two_parts(place):
    written_split(place, train=CT[:2], val=CT[2:], test=CT[:1])


@corruption("mmwhs_ct", ("split.json", "names ct_train_1009, which the data set does"), options=WITH_SPLIT)
def split_with_an_unknown_case(place):
    written_split(place, train=CT[:1], val=CT[1:], test=["ct_train_1009"])


@corruption(
    "amos22", ("split.json", "leaves out 1 cases of the data set, such as amos_0003"), options=WITH_SPLIT
)
def split_without_one_case(place):
    written_split(place, train=["amos_0001"], val=["amos_0002"], test=["amos_0401", "amos_0402"])


@corruption(
    "mmwhs_ct", ("split.json", "is not a split (dataset, seed, train, val, test)"), options=WITH_SPLIT
)
def split_without_parts(place):
    written_split(place, train=CT)


@corruption("mmwhs_ct", ("split.json", "file not found"), options=WITH_SPLIT)
def split_missing(place):
    pass


@corruption("knee", ("split.json", "has the patient P1 in two parts"), options=WITH_SPLIT)
def split_with_a_patient_in_two_parts(place):
    written_split(place, train=["P1_left"], val=["P1_right"], test=["P2_left", "P3_left"])


@corruption(
    "mmwhs_ct",
    ("ct_train_1003_image.nii.gz", "as ct_train_1001_image.nii.gz, across splits (test and train)"),
    options=WITH_SPLIT,
)
def duplicate_in_two_parts_of_a_written_split(place):
    duplicate_case(place)
    written_split(place, train=CT[:1], val=CT[1:2], test=CT[2:])


# --- dataset.json and cohort.json ---


@corruption("amos22", ("dataset.json", "file not found"))
def dataset_json_missing(place):
    (place.folder / "dataset.json").unlink()


@corruption("amos22", ("dataset.json", "not readable as JSON"))
def dataset_json_truncated(place):
    path = place.folder / "dataset.json"
    path.write_text(path.read_text()[:-9])


@corruption("amos22", ("dataset.json", "not readable as JSON"))
def dataset_json_nested_deeply(place):
    (place.folder / "dataset.json").write_text("[" * 100_000)


@corruption("amos22", ("dataset.json", "not readable as JSON"))
def dataset_json_in_binary(place):
    (place.folder / "dataset.json").write_bytes(bytes(range(256)))


@corruption("amos22", ("dataset.json", "holds a list instead of a JSON object"))
def dataset_json_of_a_list(place):
    (place.folder / "dataset.json").write_text("[]")


@corruption("amos22", ("dataset.json", "the key '2' is there twice"))
def dataset_json_with_a_code_twice(place):
    path = place.folder / "dataset.json"
    path.write_text(path.read_text().replace('"labels": {', '"labels": {"2": "liver", '))


@corruption(
    "msd_brain",
    ("dataset.json", "calls label 2 'enhancing tumor'; expected 'non-enhancing tumour'"),
    ("dataset.json", "calls label 3 'non-enhancing tumor'; expected 'enhancing tumour'"),
)
def tumour_codes_swapped(place):
    place.edit_json(lambda c: c["labels"].update({"2": "enhancing tumor", "3": "non-enhancing tumor"}))


@corruption(
    "amos22",
    ("dataset.json", "calls label 2 'left kidney'; expected 'right kidney'"),
    ("dataset.json", "calls label 3 'right kidney'; expected 'left kidney'"),
)
def kidney_codes_swapped(place):
    place.edit_json(lambda c: c["labels"].update({"2": "left kidney", "3": "right kidney"}))


@corruption(
    "amos22", ("dataset.json", "calls label 16 'appendix'; AMOS22 (abdominal CT) declares no such label")
)
def label_name_surplus(place):
    place.edit_json(lambda c: c["labels"].update({"16": "appendix"}))


@corruption("amos22", ("dataset.json", "must have 'labels' that name the codes [1, 2"))
def label_name_missing(place):
    place.edit_json(lambda c: c["labels"].pop("15"))


@corruption("amos22", ("dataset.json", "must have 'labels' that name the codes [1, 2"))
def label_names_in_a_list(place):
    place.edit_json(lambda c: c.update(labels=["background", "spleen"]))


@corruption(
    "msd_brain", ("dataset.json", "has the channels ['T1w', 'FLAIR', 'T1gd', 'T2w']; expected ['FLAIR'")
)
def channels_in_another_order(place):
    place.edit_json(lambda c: c["modality"].update({"0": "T1w", "1": "FLAIR"}))


@corruption(
    "amos22",
    ("dataset.json", "names ../../amos_0001.nii.gz, outside its own folder; keep all paths below"),
    ("imagesTr/amos_0001.nii.gz", "belongs to no case"),
)
def path_outside_the_folder(place):
    place.edit_json(lambda c: c["training"][0].update(image="../../amos_0001.nii.gz"))


@corruption(
    "amos22",
    ("dataset.json", "names /etc/passwd, outside its own folder"),
    ("labelsTr/amos_0001.nii.gz", "belongs to no case"),
)
def absolute_path(place):
    place.edit_json(lambda c: c["training"][0].update(label="/etc/passwd"))


@corruption(
    "amos22",
    ("dataset.json", "names imagesTr/../../amos22x/a_1.nii.gz, outside its own folder"),
    ("imagesTr/amos_0001.nii.gz", "belongs to no case"),
)
def path_to_a_folder_of_similar_name(place):
    place.edit_json(lambda c: c["training"][0].update(image="imagesTr/../../amos22x/a_1.nii.gz"))


@corruption(
    "amos22",
    ("dataset.json", "lacks a path in entry 0 of 'training'; give each entry an image and a label"),
    ("labelsTr/amos_0001.nii.gz", "belongs to no case"),
)
def entry_without_a_label(place):
    place.edit_json(lambda c: c["training"][0].pop("label"))


@corruption("amos22", ("dataset.json", "lacks a path in entry 3 of 'training'"))
def entry_that_is_a_number(place):
    place.edit_json(lambda c: c["training"].append(4))


@corruption("amos22", ("dataset.json", "lacks a path in entry 3 of 'training'"))
def entry_with_a_list_for_a_path(place):
    place.edit_json(lambda c: c["training"].append({"image": ["a"], "label": ["b"]}))


@corruption("amos22", ("dataset.json", "has no list under 'validation'"))
def section_that_is_a_number(place):
    place.edit_json(lambda c: c.update(validation=2))


@corruption("amos22", ("/amos22", "lists the case amos_0001 2 times; list it once"))
def entry_repeated(place):
    place.edit_json(lambda c: c["training"].append(c["training"][0]))


@corruption("amos22", ("/amos22", "lists the case amos_0001 2 times"))
def entry_in_two_sections(place):
    place.edit_json(lambda c: c["validation"].append(c["training"][0]))


@corruption(
    "amos22", ("imagesTr/amos_0009.nii.gz", "file not found"), ("labelsTr/amos_0009.nii.gz", "file not found")
)
def entry_without_files(place):
    entry = {"image": "./imagesTr/amos_0009.nii.gz", "label": "./labelsTr/amos_0009.nii.gz"}
    place.edit_json(lambda c: c["training"].append(entry))


@corruption(
    "msd_brain",
    ("dataset.json", "gives the image of BRATS_001 the label map of BRATS_002"),
    ("dataset.json", "gives the image of BRATS_002 the label map of BRATS_001"),
)
def labels_swapped_between_cases(place):
    def swap(content: dict) -> None:
        first, second, _ = content["training"]
        first["label"], second["label"] = second["label"], first["label"]

    place.edit_json(swap)


@corruption("amos22", ("/amos22", "holds the case scan, which does not end in a number"))
def case_without_a_number(place):
    place.rename_case("amos_0001", "scan", "Tr")


@corruption("mmwhs_ct", ("cohort.json", 'does not say "cohort": "synthetic"'))
def cohort_of_another_kind(place):
    (place.root / "cohort.json").write_text('{"cohort": "imagined"}')


@corruption("mmwhs_ct", ("cohort.json", "not readable as JSON"))
def cohort_truncated(place):
    (place.root / "cohort.json").write_text('{"cohort": ')


# --- prompts ---


@corruption("mmwhs_ct", ("prompts.csv", "not readable as CSV"))
def prompts_missing(place):
    place.prompts.unlink()


@corruption("mmwhs_ct", ("prompts.csv", "lacks the columns Title, Shape"))
def prompts_empty(place):
    place.prompts.write_text("")


@corruption("mmwhs_ct", ("prompts.csv", "lacks the columns Shape"))
def prompts_without_a_column(place):
    place.edit_prompts(lambda lines: [lines[0].replace("Shape", "Form"), *lines[1:]])


@corruption("mmwhs_ct", ("prompts.csv", "Internal Texture, separated by commas"))
def prompts_separated_by_semicolons(place):
    place.edit_prompts(lambda lines: [line.replace(",", ";") for line in lines])


@corruption("mmwhs_ct", ("prompts.csv", "has the column Shape twice"))
def prompts_with_a_column_twice(place):
    place.edit_prompts(lambda lines: [line + (",Shape" if line is lines[0] else ",s") for line in lines])


@corruption(
    "mmwhs_ct",
    ("prompts.csv", "has 7 cells in row 3, but 6 in its header; put a text that holds a comma in quotes"),
)
def prompts_with_a_comma_outside_quotes(place):
    place.edit_prompts(lambda lines: [*lines[:3], lines[3].replace(",s,", ",small, round,"), *lines[4:]])


@corruption("mmwhs_ct", ("prompts.csv", "not readable as CSV"))
def prompts_with_an_open_quote(place):
    place.edit_prompts(lambda lines: [*lines[:-1], lines[-1].replace(",s,", ',"s,')])


@corruption("mmwhs_ct", ("prompts.csv", "is not UTF-8 text; save it as 'CSV UTF-8'"))
def prompts_of_another_encoding(place):
    place.prompts.write_text(place.prompts.read_text(), encoding="utf-16")


@corruption(
    "mmwhs_ct", ("prompts.csv", "row 1 has no text under Location"), ("prompts.csv", "row 2 has no text")
)
def prompts_with_empty_cells(place):
    place.edit_prompts(
        lambda lines: [line.replace(",l,", ",,") if n in (1, 2) else line for n, line in enumerate(lines)]
    )


@corruption(
    "mmwhs_ct", ("prompts.csv", "has 6 rows; give one row for each of the 7 classes of MM-WHS (cardiac CT)")
)
def prompts_without_one_class(place):
    place.edit_prompts(lambda lines: lines[:-1])


@corruption(
    "mmwhs_ct",
    ("prompts.csv", "matches no class with the title of row 8, 'Spleen in a CT Image'"),
    ("prompts.csv", "has 8 rows"),
)
def prompts_of_a_surplus_class(place):
    place.edit_prompts(lambda lines: [*lines, "Spleen in a CT Image,s,l,a,c,t"])


@corruption(
    "amos22",
    (
        "prompts.csv",
        "matches no class with the title of row 4, 'Appendix in a CT Image'; the classes are spleen",
    ),
    ("prompts.csv", "the title of row 4, 'Appendix in a CT Image', does not contain 'gallbladder'"),
)
def prompts_with_a_row_of_no_class(place):
    place.edit_prompts(lambda lines: [line.replace("Gallbladder", "Appendix") for line in lines])


@corruption(
    "amos22",
    ("prompts.csv", "the title of row 2, 'Left Kidney in a CT Image', does not contain 'right kidney'"),
    ("prompts.csv", "the title of row 3, 'Right Kidney in a CT Image', does not contain 'left kidney'"),
)
def prompts_of_the_kidneys_swapped(place):
    place.edit_prompts(lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]])


@corruption("mmwhs_ct", ("prompts.csv", "repeats a title in row 5, 'Myocardium Of The Left Ventricle"))
def prompts_with_a_title_twice(place):
    """The myocardium's title contains "left ventricle" too."""
    place.edit_prompts(lambda lines: [lines[0], lines[5], *lines[2:]])


# --- many issues at once ---


@corruption(
    "msd_brain",
    ("prompts.csv", "has 2 rows"),
    ("dataset.json", "calls label 1 'oedema'"),
    ("imagesTr/BRATS_009.nii.gz", "belongs to no case"),
    ("imagesTr/BRATS_001.nii.gz", "not readable as NIfTI"),
    ("imagesTr/BRATS_002.nii.gz", "file not found"),
    ("labelsTr/BRATS_002.nii.gz", "holds the undeclared codes 9"),
    ("labelsTr/BRATS_003.nii.gz", "is not on the grid of its image (origin 7 mm off)"),
)
def many_issues_at_once(place):
    place.edit_prompts(lambda lines: lines[:-1])
    place.edit_json(lambda c: c["labels"].update({"1": "oedema"}))
    save(place.folder / "imagesTr" / "BRATS_009.nii.gz", image_of(place.spec, seed=9))
    place.case(1)[0].write_bytes(b"no scan")
    place.case(2)[0].unlink()
    save(place.case(2)[1], np.where(label_of(place.spec) == 0, 9, label_of(place.spec)).astype(np.int16))
    save(place.case(3)[1], label_of(place.spec, seed=6), moved(y3=7))
