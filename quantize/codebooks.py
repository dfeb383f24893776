"""The codebooks of ggml's IQ1, IQ2 and IQ3 types, and for every point that is in none, the entries near it.

A codebook holds some of the points whose coordinates are levels: 8 coordinates of 3 levels, or 4 of 8. A group of
values is stored as the number of an entry. Numbers below count points with the first coordinate as the lowest digit,
in base 3 or 8; entries are numbered in the order of these.

Which entries a rounded group may become (ggml-quants.c, iq2xs_init_impl and iq3xs_init_impl): itself where it is one;
else those at the 1, 2 or 3 least distances that occur, nearest first, at equal distances by number.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

# Which points are entries: a bit a point, the first point's lowest, packed. They are facts of the format
# (ggml-common.h, the tables iq2xxs_grid ... iq3s_grid), which a test holds equal to those of gguf-py.
_ENTRIES: Mapping[str, str] = {
    "IQ2_XXS": (
        "c-nPRORB^$43oj#tB`je2YP^R=KfcCw)5@K5e=lV<VbEmf91ogR%p3E0BR^O#16P=^@J3)+t0mx___f>P^zDolEn6;is&dxI!#Zg_{KuzkVd4M"
        "w`?l*l~*(z5~c8Qj-!-YZym34v`$TQ4<4*~)dpL;rq|+W4irx`d$&)6^vGb7UkLBrzcFbHqcf>sMFwRxr;MTG;*}m%Qlby-@@TSk)X7om@@#uK"
        "QIjUUWQ&$2&y}*gX5TV=Bc|Cuh1wL(2Kn3A3Yj<N%;gblzhT7_jxp@MF=lA5st5R^Hl2J=^JV`E{Z0D^#$6R7"
    ),
    "IQ2_XS": (
        "c-mc2TdsvL2pkgnkBRPwCicH3cK=&BJX-bM<{ZTW!^|+oxJIi-qkD|rsuaR~iB<*?x~C4>8J0pJW<V>X*vo#SY&(-c)w(<-fCU6QVt|)*=>oJ="
        "N8h~B3mmYKBw*Y)Ca<s*uvOak7T*la5<g=kAh?T96(5+bR(Mt@J=L5^n!u1sF+~=p=RjVCGbM+vDH*59tF!>kC`)-u3GzO}jM8X_r-*1ytubG*"
        "&a^iqGs?p-do}D8x2NWXU?%O)=7t88q040RdJ=Ak)9T+$YBcFD31^6BC_W+mG1}iEA-T}Oj@u6-pQ1yByIl9%`W3mW#F%j~<yh(N0zSL~oH^Zy"
        "%}}tQx4=M73#xoc?jNErTmD?iDs40;(&MG>YYMNuDE=SK;cc#9vM%q_=>7msuqjC"
    ),
    "IQ2_S": (
        "c-n1JU5W-F3~NE(E9iYHjPDBe{#V(wI=kPpE5rQ7#3X8F%Z9aF@G^(h-0EI3Em0|W3^QwctZ7zp0a8G#rYWS&oF&YfEj@sgh^u5FBBgC>LAkBE"
        "EtarKv-X}c)kMD5E9g)N*35uFS6j&;COQ!QC2=T0oAzp}=fs8f?3xctXeG?g^dQAA!2(KVP=j1x!<Qgx@l7F)Pu!TMd$m>{ZzEray(N$AzRb24"
        ")#*U9zYZZF^+2!@EVQ9?ARiEH!J<ErE8usn4?()-BQhW*1pE<<S|Z6aT82aQO}QP4+el6zUY~*z7~Sl6pK?p!Q_DMIhH4w7?joIO9P^#Dw9CRS"
        "7mu8OBC|vDii4FoWN_zK9m?6y$}qXC*pyH_2f!)+bXep&HXz~CYasM7Fd3(JhmM~KIbkHJ7yU4;E692~{FNElHOf~Fzm+TBn!W(JyjC6"
    ),
    "IQ1_S": (
        "c-k#eK}(!R7=CxE;dM-9V?RN1diSfb(^(PgE$L;EU0C#DLh=VZ*|bQ>IZZw%yXlwN6ha`hG?#HO$v6$G@ldv(umMk2dT8mb2WdTox*h^v8VtnD"
        "uD#8?@Vw9Syw7v(LR2?w<}y}3b9YJG^C&5*&qs>Nl?x;NhAB!%0hRecnsm$a2YwJ@;QqccSPG~@n#@N5uBY$^gNY22s7}?HYgoxmY#Y+!Ajh1y"
        "xWA4l1OzVO1-XRyWBes^wA;LAoBq<x!%nuPhFWp9`{&R@7DG%<XIwD^Is3Q$Jf@<B<<hd(0^?jzIHG8vQn*?-$Ub(LsHW&@kYNcQ%|}dP%c;av"
        "8KJU^mWiJv*28-WD<$YEG%#}+D!ES;XeDuFD(VlG#i@A4$V;H%7rH52w&LB_pg1xSvl=L<CZ@9?{WdkSxbxSuMq|l64F4MqT|O(RS}O@H(bLXv"
        "Hn!_OntvSw2GXTKiD_6XGLxujp0!)qyF+V=7Bv?g3oFy??D1-6?{(2le%HQrc>Le(m#@Cb_P%)g$;r#{<KcsUbe#9?p_<1{H>jE?+1SCIq;Fwj"
        "@yPMjA_U90?}vdY$)D1%>fQq-z{36HBT$I&mG*v%J#A~V%aSj@pZtCEAg}V1eou`2@uUxU_YQ=)6;l3U7EjmAKr#y2F0kdO91c}@u6ikZ68>90"
        "+)KINV7E3oVy0wcNC7Qg*Gnz$6Ckekcj5w;yQl$8BcV}uIeIA*;9XR~L2uzcrHYS+2)y-rqrtcg6e{stpn$cM#il(dTBx(R&0u-;P1DmAvG}u@"
        "dX;b%ns9v~6p49X^c}lqEMlIFjzJBbrp$X4T{{D_p5YV7e^~xM<^E7<_56qcAaL=FI+lT|4v2#Y&dpW2-Egd@Fdf5G@Dheeu*|v(bMFD;1sQ1"
    ),
    "IQ3_XXS": (
        "c-l=-F%H5o3_M%0RAmZ7_lgPeigaLyA4Q!IuVCbv_?)J2Rn;aw-<^~BWtxCXwzFx0%xW)eST<YW5KL&L;j#hAAHoX-c)&}FY<X@1m|7IGsjrX>"
        "q7@bAuHrcP3L2_`6x)_>^v5;&o?@Fdagv_Uo9H*utGOGEJ93R6P|L2rgx{U}Y-UnrS3sKYtPIbF!WdDS7|dsT<9UQCqzhJe8+4kK5km%XvHjm="
        "J(sMgqk-e3v^zjTJayVggoDWMJzTWE4a0T)3l-9P!ydlNePrBA?Xny*@kmBo4W|8$?wEo20v5Uy_5"
    ),
    "IQ3_S": (
        "c-k#d!AiqG5PdVu!e&pqA>uXNMyUCUt<-~hDT4SrX{pfmmf{D9Rs{Q#&TgE;z`Qr}-rMBob#A|%IbF{W(Id*&Lkwq!%0~0(%@Ao{OU0lD_x2OX"
        "CI^OquXIKLt}o^pYnG?L6&oz+9HeSVPSrN(A}t!YmF^Xmp*3Qy-5G8(e|b5Y-VC?q(AA>+32wuC)HmEXp@c1}PT|h83}iuXSwt^ePGkv?U+Lf3"
        "a_=1ov?9@{igP&9v4ypFswx3&TJZ@M2_=SuX>*z&qp%+CoXl)ge8!drA@5Agyn!FG+()?*sDei}n1QT95(J|p-wR7#Aht{0!Hx!aZfy;cl!bD4"
        "D3uqR(zW`GY5;6>@R{_|3X$jRqNR^eu)^e<Ll^vCYlKPU1;QQ+o$IB(hKom+bHx0SXmXXwyZnVo8~6jd#wQ>"
    ),
}
_DISTANCES: Mapping[str, int] = {"IQ1_S": 3, "IQ2_XXS": 2, "IQ2_XS": 2, "IQ2_S": 1, "IQ3_XXS": 2, "IQ3_S": 3}
"""How many different distances the entries near a point may have."""

COUNT_SHIFT = 20
"""Of a number in `Codebook.lists`: from this bit on, how many entries; below, where they stand."""


@dataclass(frozen=True)
class Codebook:
    """Entries, and lists of entries; all arrays are contiguous, as kernels take them."""

    levels: np.ndarray
    """uint8 (entries, coordinates)."""
    words: np.ndarray
    """int32 (entries,): the odd numbers 2 * level + 1, four bits each, the first coordinate's lowest."""
    lists: np.ndarray
    """int32 (points,): an entry's own code; or where a point's list stands and, `COUNT_SHIFT` bits up, its length."""
    codes: np.ndarray
    """uint16: entries, list after list, as codes: their levels, 2 or 3 bits each; sixteen more behind the last."""
    numbers: np.ndarray
    """uint16 (codes,): the number of the entry of a code."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """What kernels take."""
        return self.lists, self.codes, self.numbers


@cache
def codebook(name: str) -> Codebook:
    """The codebook of a type; IQ1_M has that of IQ1_S."""
    base, size = (8, 4) if name.startswith("IQ3") else (3, 8)
    points = _levels(np.arange(base**size), base, size)
    packed = zlib.decompress(base64.b85decode(_ENTRIES[name]))
    entries = np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little"))
    levels = points[entries]
    of_point, members = _near(points, levels, _DISTANCES[name])
    counts = np.bincount(of_point, minlength=len(points))
    lists = (np.cumsum(counts) - counts) | counts << COUNT_SHIFT
    bits = (base - 1).bit_length()
    codes = (levels.astype(np.int64) << bits * np.arange(size)).sum(axis=1)
    lists[entries] = codes
    numbers = np.zeros(1 << bits * size, np.uint16)
    numbers[codes] = np.arange(len(entries))
    return Codebook(
        levels=levels,
        words=((2 * levels.astype(np.int64) + 1) << 4 * np.arange(size)).sum(axis=1).astype(np.int32),
        lists=lists.astype(np.int32),
        codes=np.concatenate([codes[members], np.zeros(16, np.int64)]).astype(np.uint16),
        numbers=numbers,
    )


def _levels(numbers: np.ndarray, base: int, size: int) -> np.ndarray:
    """uint8 (numbers, size): the digits of each number."""
    return np.asarray(numbers[:, None] // base ** np.arange(size) % base, np.uint8)


def _near(points: np.ndarray, entries: np.ndarray, distances: int) -> tuple[np.ndarray, np.ndarray]:
    """Points that are no entries, and the entries near each: as many pairs as there are, in the order of the lists."""
    found, members, apart = [], [], []
    # |p - e|**2 = |p|**2 + |e|**2 - 2 p e, at most 4 * 49: a byte
    reach = np.concatenate([-2.0 * entries, (entries**2.0).sum(axis=1, keepdims=True)], axis=1).astype(np.float32)
    for start in range(0, len(points), 1024):
        some = points[start : start + 1024].astype(np.float32)
        squares = np.concatenate([some, np.ones((len(some), 1), np.float32)], axis=1) @ reach.T
        squares += (some**2).sum(axis=1)[:, None]
        squares = squares.astype(np.uint8)
        limit = squares.min(axis=1)
        entry = limit == 0
        for _ in range(distances - 1):
            limit = np.where(squares > limit[:, None], squares, np.uint8(255)).min(axis=1)
        limit[entry] = 0
        squares[entry] = 1
        point, member = np.nonzero(squares <= limit[:, None])
        found.append(point + start)
        members.append(member)
        apart.append(squares[point, member])
    point, member = np.concatenate(found), np.concatenate(members)
    order = np.lexsort((member, np.concatenate(apart), point))
    return point[order], member[order]
