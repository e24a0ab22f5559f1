/** Negative errno values as people read them. */
import {
  EACCES,
  EAGAIN,
  EBUSY,
  EEXIST,
  EFAULT,
  EHWPOISON,
  EINTR,
  EINVAL,
  EIO,
  EMLINK,
  ENODEV,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ENXIO,
  EOPNOTSUPP,
  EOVERFLOW,
  EPERM,
  EREMOTEIO,
} from '#mm';

const NAMES = new Map<number, string>(
  Object.entries({
    EACCES,
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EHWPOISON,
    EINTR,
    EINVAL,
    EIO,
    EMLINK,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENXIO,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    EREMOTEIO,
  }).map(([name, value]) => [value, name]),
);

/** -12 -> "-ENOMEM"; any other number as it is. */
export const errnoName = (error: number): string => {
  const name = NAMES.get(-error);
  return name === undefined ? `${error}` : `-${name}`;
};
