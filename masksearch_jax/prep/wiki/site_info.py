"""What an export says of its wiki: language and names of namespaces, read from the head of the dump.

Pages name files and categories in the words of their wiki (`[[Datei:..]]`, `[[Kategorie:..]]`), or in English, which
every wiki understands. Older names that wikis still understand are not in an export. Those of files and some of
categories are listed here.
"""

import dataclasses
import functools
import re

from masksearch_jax.text.normal_forms import unescape

FILE, CATEGORY, OTHER = "file", "category", "other"
_LANGUAGE = re.compile(rb"<mediawiki\b[^<>]*\bxml:lang=[\"']([A-Za-z0-9-]{1,40})[\"']")
_NAME = re.compile(rb"<dbname>([^<>]{1,200})</dbname>")
_NAMESPACE = re.compile(rb"<namespace\s[^<>]*\bkey=[\"'](-?\d{1,6})[\"'][^<>]*>([^<>]{1,200})</namespace>")
_MEDIA, _FILES, _CATEGORIES = -2, 6, 14
_OLDER_NAMES = {
    FILE: """bild bilde billede kuva imagen imagem imatge immagine image imagine afbeelding grafika plik obrázok soubor
     kép resim hình slika слика изображение файл зображення картинка εικόνα תמונה صورة تصویر चित्र 画像 図 图像 圖像 檔案
     文件 图片 그림 gambar ficheiro arquivo""",
    CATEGORY: "分类 分類",
}


@dataclasses.dataclass(frozen=True)
class Site:
    """One wiki.

    language: code as in xml:lang, 'en' if the export names none. name: of its database, '' if not given. namespaces:
    (name, kind) of each namespace but that of articles; none for English, whose names are in the code.
    """

    language: str = "en"
    name: str = ""
    namespaces: tuple[tuple[str, str], ...] = ()

    @property
    def is_english(self) -> bool:
        return is_english(self.language)

    def kind(self, target: str) -> str:
        """Return FILE, CATEGORY or OTHER for a link into such a namespace, and '' for other links and for English."""
        if not self.namespaces:
            return ""
        prefix, colon, _ = target[:100].partition(":")
        return _kinds(self).get(_folded(prefix), "") if colon else ""


ENGLISH = Site()


def is_english(language: str) -> bool:
    return language.lower().partition("-")[0] in ("", "en", "simple")


def read(head: bytes) -> Site:
    """Return the site that the bytes before the first page of an export describe."""
    language, named = _LANGUAGE.search(head), _NAME.search(head)
    code = language[1].decode().lower() if language else "en"
    name = named[1].decode("utf-8", "replace") if named else ""
    if is_english(code):
        return Site("en", name)
    kinds = {_MEDIA: FILE, _FILES: FILE, _CATEGORIES: CATEGORY}
    kinds_of_names = {older: kind for kind, names in _OLDER_NAMES.items() for older in names.split()}
    for key, shown in _NAMESPACE.findall(head):
        if key != b"0":
            kinds_of_names[_folded(unescape(shown.decode("utf-8", "replace")))] = kinds.get(int(key), OTHER)
    return Site(code, name, tuple(kinds_of_names.items()))


@functools.lru_cache(maxsize=8)
def _kinds(site: Site) -> dict[str, str]:
    return dict(site.namespaces)


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
