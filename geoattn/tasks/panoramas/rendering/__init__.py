"""Rooms as panoramas: furniture, rooms that hold it, cameras, rays, colours and depths."""
